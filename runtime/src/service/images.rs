//! `runtime.v1.ImageService`.

use cri::ImageService;
use tonic::{Request, Response, Status};

use super::{Service, convert};
use crate::image::{self, Credentials};
use crate::stats;

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<cri::ListImagesRequest>,
    ) -> Result<Response<cri::ListImagesResponse>, Status> {
        let wanted = request.into_inner().filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        let images = match wanted.as_str() {
            "" => self.0.images.list(),
            name => self.0.images.find(name).into_iter().collect(),
        };
        Ok(Response::new(cri::ListImagesResponse { images: images.iter().map(convert::image).collect() }))
    }

    async fn image_status(
        &self,
        request: Request<cri::ImageStatusRequest>,
    ) -> Result<Response<cri::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let record = self.0.images.find(&request.image.unwrap_or_default().image);
        let mut response = cri::ImageStatusResponse { image: record.as_ref().map(convert::image), ..Default::default() };
        if let (true, Some(record)) = (request.verbose, &record) {
            let info = serde_json::json!({ "chainID": record.chain.last(), "imageSpec": record.config });
            response.info.insert("info".to_owned(), info.to_string());
        }
        Ok(Response::new(response))
    }

    async fn pull_image(&self, request: Request<cri::PullImageRequest>) -> Result<Response<cri::PullImageResponse>, Status> {
        let request = request.into_inner();
        let name = request.image.unwrap_or_default().image;
        let credentials = Credentials::from_cri(request.auth.as_ref())?;
        let core = self.0.clone();
        let pulled = self
            .detached(async move { image::pull(core.images.clone(), &core.config.registries, &name, &credentials).await })
            .await?;
        Ok(Response::new(cri::PullImageResponse { image_ref: pulled.id }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.blocking(move |core| core.images.remove(&name)).await?;
        Ok(Response::new(cri::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<cri::ImageFsInfoRequest>,
    ) -> Result<Response<cri::ImageFsInfoResponse>, Status> {
        let (images, containers) = self
            .blocking(|core| {
                let root = &core.layout.root;
                Ok((stats::tree_usage(core.images.root(), root), stats::tree_usage(&core.layout.containers(), root)))
            })
            .await?;
        Ok(Response::new(cri::ImageFsInfoResponse {
            image_filesystems: vec![images],
            container_filesystems: vec![containers],
        }))
    }
}
